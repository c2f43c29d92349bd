"""What can be done from the page: the commands that `nightschool` has on the command line, over the same `Workspace`.

Files are meant by their number alone. What takes a while is a job; what changes the past is shown first, and done only
where it still is what was shown.
"""

from __future__ import annotations

from collections.abc import Callable

from nightschool import durable
from nightschool.api import Workspace
from nightschool.dashboard import plans
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.jobs import Told
from nightschool.dashboard.shapes import (
    AgreedForget,
    AgreedRollback,
    Chosen,
    Done,
    Forget,
    Job,
    Move,
    Pause,
    Plan,
    Prioritise,
    Rollback,
    Skip,
    TakeSnapshot,
)
from nightschool.errors import DataError, NightschoolError, StorageError
from nightschool.snapshots import take
from nightschool.snapshots.purge import UNREACHED
from nightschool.words import duration, in_bytes

SHOWN = 5
"""Problems, or files, that are named in one sentence."""


async def _done(call: Call, act: Callable[[Workspace], str]) -> Done:
    """Do something quick, when it is its turn: one writer at a time from here, however many tabs there are."""
    workspace = call.services.workspace
    return Done(said=await call.services.hands.do(lambda: act(workspace)))


async def _pause(call: Call) -> Done:
    seconds: float | None = call.body.seconds

    def act(workspace: Workspace) -> str:
        workspace.pause(seconds)
        end = "until it is resumed" if seconds is None else f"for {duration(seconds)}, or until it is resumed"
        if not _runs(workspace):
            return f"Paused. The machine does not run; when it is started it does not train {end}."
        return f"Pausing: the trainer frees the GPU, saves a checkpoint and ends. It rests {end}."

    return await _done(call, act)


async def _resume(call: Call) -> Done:
    def act(workspace: Workspace) -> str:
        workspace.resume()
        if not _runs(workspace):
            return "Not paused any more. The machine does not run: start it with `nightschool run`."
        return "Going on."

    return await _done(call, act)


async def _skip(call: Call) -> Done:
    return await _done(call, lambda workspace: workspace.skip(shelve=call.body.shelve, file=call.body.file))


async def _stop(call: Call) -> Done:
    def act(workspace: Workspace) -> str:
        if workspace.stop() is None:
            return "No machine runs here."
        return "Asked the machine to stop. It saves a checkpoint first; `nightschool run` starts it again."

    return await _done(call, act)


async def _move(call: Call) -> Done:
    ask: Move = call.body
    if (ask.where == "before") != (ask.other is not None):
        raise DataError("`other`, the file that it is to come before, goes with `before`, and only with that.")

    def act(workspace: Workspace) -> str:
        plans.require_files(workspace, [ask.file] if ask.other is None else [ask.file, ask.other])
        return workspace.move(ask.file, ask.where, ask.other)

    return await _done(call, act)


async def _prioritise(call: Call) -> Done:
    ask: Prioritise = call.body
    return await _on_files(call, ask.files, lambda workspace: workspace.set_priority(ask.files, ask.priority))


async def _remove(call: Call) -> Done:
    ask: Chosen = call.body
    return await _on_files(call, ask.files, lambda workspace: workspace.remove(ask.files))


async def _put_back(call: Call) -> Done:
    ask: Chosen = call.body
    return await _on_files(call, ask.files, lambda workspace: workspace.put_back(ask.files))


async def _on_files(call: Call, files: list[int], act: Callable[[Workspace], str]) -> Done:
    def both(workspace: Workspace) -> str:
        plans.require_files(workspace, files)
        return act(workspace)

    return await _done(call, both)


async def _plan_rollback(call: Call) -> Plan:
    # A plan reads whole states: not in the thread where a pause would wait behind it.
    return await call.services.planning.do(lambda: plans.of_rollback(call.services.workspace, call.body))


async def _plan_forget(call: Call) -> Plan:
    return await call.services.planning.do(lambda: plans.of_forget(call.services.workspace, call.body))


async def _rollback(call: Call) -> Job:
    ask: AgreedRollback = call.body
    workspace = call.services.workspace
    plan = await _plan_rollback(call)
    plans.require_same(plan, ask.digest)

    def act(told: Told) -> str:
        agreed = plans.still_agreed(workspace, ask.to, ask.digest)
        done = workspace.rollback(ask.to, ask.later, waiting=told, agreed=agreed)
        return f"Done: the run stands at step {done.then:,}. It can be undone."

    return call.services.jobs.start(plan.what, act)


async def _forget(call: Call) -> Job:
    ask: AgreedForget = call.body
    workspace = call.services.workspace
    plan = await _plan_forget(call)
    plans.require_same(plan, ask.digest)

    def act(told: Told) -> str:
        agreed = plans.still_agreed(workspace, "", ask.digest)
        done = workspace.forget(ask.files, purge=ask.purge, waiting=told, agreed=agreed)
        said = f"Done: the run stands at step {done.then:,}."
        if ask.purge:
            return f"{said} Out of reach, and for you to look after: {'; '.join(UNREACHED)}."
        if done.undoable:
            return f"{said} It can be undone."
        return "Done. It had not been begun: `nightschool add --again` puts it into the queue again."

    return call.services.jobs.start(plan.what, act)


async def _snapshot(call: Call) -> Job:
    ask: TakeSnapshot = call.body
    workspace = call.services.workspace
    if ask.name is not None:
        take.check_name(ask.name)

    def act(told: Told) -> str:
        from nightschool.snapshots.pruning import room_of

        taken = workspace.snapshot(ask.name, told=told)
        room = room_of(taken.folder)
        said = f"Took the snapshot {taken.name} of step {taken.step:,}: {in_bytes(room.own)} of its own."
        try:
            workspace.copy_snapshots()  # where the machine runs, it does that itself
        except NightschoolError as error:
            said += f" It is not in the second place yet: {error}"
        return said

    return call.services.jobs.start("A snapshot" if ask.name is None else f"The snapshot {ask.name}", act)


async def _verify(call: Call) -> Job:
    workspace = call.services.workspace

    def act(told: Told) -> str:
        found = workspace.verify_states(told, told.go_on)
        bad = {name: problem for name, problem in found.items() if problem is not None}
        states = f"{len(found):,} saved state{'' if len(found) == 1 else 's'}"
        if not found:
            return "Nothing has been saved yet, so there was nothing to read."
        if not bad:
            return f"Read every byte of {states}: all are whole."
        shown = "; ".join(f"{name}: {problem}" for name, problem in list(bad.items())[:SHOWN])
        more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        raise StorageError(f"Of {states}, {len(bad):,} cannot be relied on: {shown}{more}.")

    return call.services.jobs.start("Reading every saved state", act, reads=True)


async def _job(call: Call) -> Job:
    return call.services.jobs.get(call.path["id"])


async def _give_up(call: Call) -> Job:
    return call.services.jobs.give_up(call.path["id"])


def _runs(workspace: Workspace) -> bool:
    return durable.holder(workspace.layout.supervisor_lock) is not None


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/api/pause",
        "Free the GPU and rest, for a time or until resumed",
        _pause,
        Done,
        takes=Pause,
        tag="acts",
    ),
    Endpoint("POST", "/api/resume", "Go on after a pause, or try again after a failure", _resume, Done, tag="acts"),
    Endpoint("POST", "/api/skip", "Go on with the next file", _skip, Done, takes=Skip, tag="acts"),
    Endpoint("POST", "/api/stop", "Let the machine save and end, and this page with it", _stop, Done, tag="acts"),
    Endpoint("POST", "/api/queue/move", "Move a waiting file", _move, Done, takes=Move, tag="acts"),
    Endpoint(
        "POST",
        "/api/queue/priority",
        "Give waiting files another priority",
        _prioritise,
        Done,
        takes=Prioritise,
        tag="acts",
    ),
    Endpoint(
        "POST", "/api/queue/remove", "Take waiting files out of the queue", _remove, Done, takes=Chosen, tag="acts"
    ),
    Endpoint(
        "POST", "/api/queue/put-back", "Put files back that were set aside", _put_back, Done, takes=Chosen, tag="acts"
    ),
    Endpoint(
        "POST", "/api/rollback/plan", "What going back would do", _plan_rollback, Plan, takes=Rollback, tag="acts"
    ),
    Endpoint(
        "POST",
        "/api/rollback",
        "Go back to a saved state",
        _rollback,
        Job,
        takes=AgreedRollback,
        status=202,
        tag="acts",
    ),
    Endpoint(
        "POST", "/api/forget/plan", "What forgetting files would do", _plan_forget, Plan, takes=Forget, tag="acts"
    ),
    Endpoint("POST", "/api/forget", "Forget files exactly", _forget, Job, takes=AgreedForget, status=202, tag="acts"),
    Endpoint(
        "POST", "/api/snapshot", "Keep the present state", _snapshot, Job, takes=TakeSnapshot, status=202, tag="acts"
    ),
    Endpoint("POST", "/api/verify", "Read every saved state against its hashes", _verify, Job, status=202, tag="acts"),
    Endpoint("GET", "/api/jobs/{id}", "How an act that takes a while stands", _job, Job, tag="acts"),
    Endpoint("DELETE", "/api/jobs/{id}", "Give up what waits, or only reads", _give_up, Job, tag="acts"),
)
