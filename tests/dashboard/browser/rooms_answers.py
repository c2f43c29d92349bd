"""How the machine that was never run answers. Paths and shapes are the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from starlette.requests import ClientDisconnect

from nightschool.dashboard import shapes
from nightschool.dashboard.endpoints import Call, Changed, Endpoint, NotThere
from nightschool.errors import DataError
from tests.dashboard.browser.rooms import HOSTILE, MOVABLE, World, ago, plain, waiting

LEVELS = {"now": -1, "high": 0, "normal": 1, "low": 2}


def now(world: World) -> shapes.Now:
    """What the machine does."""
    word = (
        "paused"
        if world.paused
        else "training"
        if world.training and world.running
        else "stopped"
        if not world.running
        else "idle"
    )
    reason = {
        "paused": "`nightschool resume` goes on",
        "training": "",
        "stopped": "`nightschool run` starts it",
        "idle": "drop a data file in inbox/",
    }
    status = {
        "state": word,
        "step": 45_120,
        "current_file": world.training,
        "queued": len(world.queue),
        "learned": 14,
        "rejected": 1,
        "loss": 1.72,
        "learning_rate": 1e-4,
        "tokens_per_second": 2151.0,
        "last_checkpoint": None,
        "last_snapshot": None,
        "reason": reason[word],
        "since": ago(minutes=42),
        "pid": 4242 if world.running else None,
        "paused": world.paused,
        "duplicates": 1,
        "set_aside": 1,
        "workspace": "/home/ada/my-model",
        "steps_queued": 4500,
        "seconds_left": 9000.0,
        "prepared_bytes": 0,
        "catching_up": None,
        "settings_problem": None,
        "metrics": None,
        "lineage": None,
    }
    steps = 301 if world.training else 0
    return shapes.Now(
        at=datetime.now(UTC).isoformat(),
        utc_offset=0,
        version="0.4.0",
        status=status,
        file_step=120 if steps else 0,
        file_steps=steps,
        file_seconds=870.0 if word == "training" else None,
        generation=2,
        event=9,
        empty=not world.files,
        file=124 if steps else None,
    )


def answers(get: Callable[[], World]) -> tuple[Endpoint, ...]:
    """All endpoints that the four views ask."""
    found: list[Endpoint] = []

    def at(method: Any, path: str, gives: Any, **how: Any) -> Callable[[Callable[[World, Call], Any]], None]:
        def take(reply: Callable[[World, Call], Any]) -> None:
            async def answer(call: Call) -> Any:
                world = get()
                if world.broken:
                    raise DataError(world.broken)
                if method == "GET":
                    world.looked.append(str(call.request.url).split("/", 3)[3])
                else:
                    world.asked.append((method, call.request.url.path, plain(call.body)))
                given = reply(world, call)
                return await given if asyncio.iscoroutine(given) else given

            found.append(Endpoint(method, path, "", answer, gives, **how))

        return take

    _queue(at)
    _uploads(at)
    _files(at)
    _saved(at)
    _health(at)
    return tuple(found)


def _queue(at: Any) -> None:
    at("GET", "/api/now", shapes.Now)(lambda world, call: now(world))

    @at("GET", "/api/queue", shapes.Queue, query=shapes.QueueQuery)
    def _(world: World, call: Call) -> shapes.Queue:
        waits = [one for one in world.queue if one.state in MOVABLE]
        ahead = [one for one in world.queue if one.state not in MOVABLE]
        steps = sum(one.steps or 0 for one in world.queue)
        return shapes.Queue(
            files=ahead + waits[: call.query.limit],
            waiting=len(waits),
            steps=steps,
            seconds=steps * 4.8,
            estimated=True,
        )

    def find(world: World, id: int) -> shapes.Waiting:
        one = next((one for one in world.queue if one.id == id), None)
        if one is None or id in world.refused or one.state not in MOVABLE:
            raise DataError(f"File {id} is not in the queue.")
        return one

    @at("POST", "/api/queue/move", shapes.Done, takes=shapes.Move)
    def _(world: World, call: Call) -> shapes.Done:
        one = find(world, call.body.file)
        other = find(world, call.body.other) if call.body.where == "before" else None
        world.queue.remove(one)
        if other is not None:
            world.queue.insert(world.queue.index(other), changed(one, priority=other.priority))
        elif call.body.where == "first":
            world.queue.insert(next(n for n, w in enumerate(world.queue) if w.state in MOVABLE), one)
        else:
            level = LEVELS[one.priority]
            behind = [n for n, w in enumerate(world.queue) if w.state in MOVABLE and LEVELS[w.priority] > level]
            world.queue.insert(behind[0] if behind else len(world.queue), one)
        return shapes.Done(said=f"{one.name} was moved.")

    @at("POST", "/api/queue/priority", shapes.Done, takes=shapes.Prioritise)
    def _(world: World, call: Call) -> shapes.Done:
        for id in call.body.files:
            world.queue[world.queue.index(find(world, id))] = changed(find(world, id), priority=call.body.priority)
        return shapes.Done(said=f"Priority {call.body.priority}.")

    @at("POST", "/api/queue/remove", shapes.Done, takes=shapes.Chosen)
    def _(world: World, call: Call) -> shapes.Done:
        for id in call.body.files:
            one = find(world, id)
            world.queue.remove(one)
            world.files.append(
                changed(world.files[0], id=id, name=one.name, state="set_aside", reason="taken out by hand")
            )
        return shapes.Done(said="Taken out of the queue.")

    @at("POST", "/api/queue/put-back", shapes.Done, takes=shapes.Chosen)
    def _(world: World, call: Call) -> shapes.Done:
        for id in call.body.files:
            one = next(one for one in world.files if one.id == id)
            world.files.remove(one)
            world.queue.append(waiting(id, one.name))
        return shapes.Done(said="Back in the queue.")

    @at("POST", "/api/pause", shapes.Done, takes=shapes.Pause)
    def _(world: World, call: Call) -> shapes.Done:
        world.paused = True
        return shapes.Done(said="Pausing: the trainer frees the GPU.")

    @at("POST", "/api/resume", shapes.Done)
    def _(world: World, call: Call) -> shapes.Done:
        world.paused = False
        return shapes.Done(said="Goes on.")

    at("POST", "/api/skip", shapes.Done, takes=shapes.Skip)(
        lambda world, call: shapes.Done(said="The next file begins.")
    )
    at("POST", "/api/stop", shapes.Done)(lambda world, call: shapes.Done(said="It saves, and ends."))


def _uploads(at: Any) -> None:
    @at("POST", "/api/uploads", shapes.Upload, query=shapes.UploadQuery, streams=True, status=201)
    async def _(world: World, call: Call) -> shapes.Upload:
        size = 0
        try:
            async for part in call.request.stream():
                size += len(part)
                await asyncio.sleep(world.slow)
        except ClientDisconnect:
            world.cut_off += 1
            raise NotThere("It was cut off.") from None
        upload = shapes.Upload(
            id=f"u{len(world.uploads) + 1}",
            name=call.query.name,
            bytes=size,
            looks_like="JSON lines with chats",
            warnings=["2 rows have the same text."],
            expires_at=ago(hours=-1),
        )
        world.uploads[upload.id] = upload
        return upload

    @at("GET", "/api/uploads/{id}/preview", shapes.Preview, query=shapes.PreviewQuery)
    def _(world: World, call: Call) -> shapes.Preview:
        assert world.preview is not None
        return changed(world.preview, name=world.uploads[call.path["id"]].name, complete=call.query.rows == 0)

    @at("POST", "/api/uploads/{id}/add", shapes.Added, takes=shapes.Add)
    def _(world: World, call: Call) -> shapes.Added:
        upload = world.uploads.pop(call.path["id"])
        world.queue.append(waiting(200, upload.name, "arrived", priority=call.body.priority))
        return shapes.Added(id=200, name=upload.name, said=f"{upload.name} waits in the queue.")

    @at("DELETE", "/api/uploads/{id}", shapes.Done)
    def _(world: World, call: Call) -> shapes.Done:
        del world.uploads[call.path["id"]]
        return shapes.Done(said="Thrown away.")


def _files(at: Any) -> None:
    @at("GET", "/api/files", shapes.Files, query=shapes.FilesQuery)
    def _(world: World, call: Call) -> shapes.Files:
        query, counts = call.query, {}
        for one in world.files:
            counts[one.state] = counts.get(one.state, 0) + 1
        fits = [
            one
            for one in sorted(world.files, key=lambda one: -one.id)
            if query.search.lower() in one.name.lower()
            and query.state in ("", one.state)
            and (query.before is None or one.id < query.before)
        ]
        page = fits[: query.limit]
        return shapes.Files(files=page, next=page[-1].id if len(fits) > len(page) else None, counts=counts)

    @at("GET", "/api/files/{id}", shapes.FileDetail)
    def _(world: World, call: Call) -> shapes.FileDetail:
        one = next((one for one in world.files if str(one.id) == call.path["id"]), None)
        if one is None:
            raise NotThere(f"There is no file {call.path['id']}.")
        rejected = one.state == "rejected"
        parts = [(1, 200, 200, 3.12, 2.2), (420, 520, 101 if one.learned_at else 40, 2.3, 1.72)]
        learnt = [
            shapes.Learnt(
                first=a,
                last=b,
                steps=b - a + 1,
                steps_done=done,
                tokens=done * 16_384,
                seconds=done * 4.8,
                loss_first=x,
                loss_last=y,
                began_at=one.arrived_at,
                alone=a == 1,
            )
            for a, b, done, x, y in parts
        ]
        bad = [shapes.BadRow(line=n, reason="it is no JSON", row=f"{HOSTILE} {n}") for n in (1, 5)]
        return shapes.FileDetail(
            file=one,
            sha256="ab12" * 16,
            shape=None if rejected else "chat",
            sequences=None if rejected else 812,
            archive=None if rejected else f"archive/2026-11-22/{one.name}",
            rejected=f"rejected/{one.name}" if rejected else None,
            settings={"epochs": 2, "columns": {"prompt": HOSTILE}},
            learnt=[] if rejected or one.state == "ready" else learnt,
            bad_rows=bad if one.rows_bad else [],
            bad_rows_left_out=10 if one.rows_bad else 0,
            what_to_do="Mend line 1 and drop the file again; `rejected/` holds it." if rejected else None,
        )

    plan_and_do(at, "/api/forget", shapes.Forget, shapes.AgreedForget)


def _saved(at: Any) -> None:
    @at("GET", "/api/saved", shapes.Saved)
    def _(world: World, call: Call) -> shapes.Saved:
        return shapes.Saved(
            checkpoints=world.checkpoints,
            snapshots=world.snapshots,
            undo=world.undo,
            next_snapshot=ago(hours=-5),
            second_place="/mnt/backup",
        )

    plan_and_do(at, "/api/rollback", shapes.Rollback, shapes.AgreedRollback)
    for path, takes in (("/api/snapshot", shapes.TakeSnapshot), ("/api/verify", None)):
        at("POST", path, shapes.Job, takes=takes, status=202)(lambda world, call: begun(world, call.request.url.path))

    @at("GET", "/api/jobs/{id}", shapes.Job)
    def _(world: World, call: Call) -> shapes.Job:
        id = call.path["id"]
        if id not in world.jobs:
            raise NotThere("There is no such job.")
        _go_on(world)
        return world.jobs[id]

    @at("DELETE", "/api/jobs/{id}", shapes.Job)
    def _(world: World, call: Call) -> shapes.Job:
        ended(world, call.path["id"], "given up", "Reading was given up.")
        return world.jobs[call.path["id"]]


def begun(world: World, what: str) -> shapes.Job:
    """A job that has begun."""
    id = f"j{len(world.jobs) + 1}"
    told, reads = ["The trainer saves first."], what == "/api/verify"
    world.jobs[id] = shapes.Job(id=id, what=what, state="running", told=told, said=None, can_give_up=reads)
    return world.jobs[id]


def _go_on(world: World) -> None:
    """Time passes for all jobs."""
    for id, job in [*world.jobs.items()]:  # a test may change them, in a thread of its own
        if job.state == "running" and not world.patient:
            ended(world, id, "done", f"Job {id} is done.")


def ended(world: World, id: str, state: str, said: str) -> None:
    """A job has ended."""
    world.jobs[id] = changed(world.jobs[id], state=state, said=said, can_give_up=False)


def plan_and_do(at: Any, path: str, takes: Any, agreed: Any) -> None:
    """A change of the past: planned, then done where the plan is the one that was shown."""

    @at("POST", f"{path}/plan", shapes.Plan, takes=takes)
    def _(world: World, call: Call) -> shapes.Plan:
        body = msgspec.to_builtins(call.body)
        later = body.get("later", "again")
        return shapes.Plan(
            what="a change",
            now=45_120,
            then=44_100,
            kept=44_100,
            start=body.get("to", "checkpoint-100"),
            undone=[
                shapes.Undone(name=HOSTILE, steps=900, of=2410),
                shapes.Undone(name="mails.jsonl", steps=120, of=120),
            ],
            later=later,
            redo=0 if later == "shelve" else 1020,
            seconds=None if later == "shelve" else 4896.0,
            revived=[],
            undoable=not body.get("purge"),
            purge=["archive/2026-11-22/mails.jsonl", "snapshots/2026-11-26"] if body.get("purge") else [],
            digest=f"{world.digest}-{later}",
        )

    @at("POST", path, shapes.Job, takes=agreed, status=202)
    def _(world: World, call: Call) -> shapes.Job:
        if not call.body.digest.startswith(world.digest):
            raise Changed("What this would do has changed since it was shown. Look at it again.")
        return begun(world, path)


def _health(at: Any) -> None:
    @at("GET", "/api/health", shapes.Health)
    def _(world: World, call: Call) -> shapes.Health:
        accident = shapes.Event(
            id=1,
            at=ago(hours=9),
            kind="accident",
            text=f"The trainer ended by itself while reading {HOSTILE}.",
            fields={},
        )
        rows = [
            ("training.learning_rate", "0.0001", "nightschool.toml, line 14", "with the next file"),
            ("dashboard.port", "8420", "default", "when the machine is started again"),
            ("notify.address", "set, and not shown", "nightschool.toml, line 40", "at once"),
        ]
        return shapes.Health(
            findings=world.findings,
            disk=shapes.Amount(used=588_000_000_000, total=1_000_000_000_000),
            gpu=shapes.Amount(used=None, total=None),
            memory=shapes.Amount(used=62_000_000_000, total=64_000_000_000),
            trainer_bytes=9_100_000_000,
            restarts=1,
            hours="from 22:00 to 07:00, and all of Sunday",
            notify="one address",
            last_trouble=[accident] if world.findings else [],
            settings=[shapes.Setting(name=a, value=b, source=c, effect=d) for a, b, c, d in rows],
        )

    @at("GET", "/api/log", shapes.Log, query=shapes.LogQuery)
    def _(world: World, call: Call) -> shapes.Log:
        every = [shapes.LogLine(at=100 * n, text=text) for n, text in enumerate(world.lines)]
        fits = [
            line
            for line in every
            if call.query.search.lower() in line.text.lower()
            and (call.query.before is None or line.at < call.query.before)
        ]
        page = fits[-call.query.limit :]
        return shapes.Log(lines=page, before=page[0].at if len(fits) > len(page) else None)


async def live(get: Callable[[], World]) -> AsyncIterator[bytes]:
    """The stream: what the machine does, twice a second, and what was changed since."""
    seen: object = None
    told_jobs: list[shapes.Job] = []
    while True:
        world = get()
        for job in () if world.silent else [*world.jobs.values()]:
            if job not in told_jobs and (job.state == "running" or told_jobs):
                yield b"event: job\ndata: " + msgspec.json.encode(job) + b"\n\n"
                told_jobs.append(job)
        if told_jobs:
            _go_on(world)
        marks = msgspec.json.encode([world.queue, world.files, world.checkpoints])
        told = msgspec.json.encode(now(world))
        yield b"id: 2.9.45120\nevent: now\ndata: " + told + b"\n\n"
        if seen is not None and marks != seen:
            yield b'id: 2.9.45120\nevent: changed\ndata: {"what": ["queue", "files", "saved"]}\n\n'
        seen = marks
        await asyncio.sleep(0.3)
