"""nightschool from Python: `from nightschool import Workspace`. The command line uses nothing else.

Importing this module imports neither torch nor pydantic; what needs them imports them when it is called.
"""

from nightschool.api.workspace import PRIORITIES, Added, Loss, Priority, Workspace

__all__ = ["PRIORITIES", "Added", "Loss", "Priority", "Workspace"]
