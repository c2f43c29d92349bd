"""Making a workspace from what another program, or another workspace, has left."""

from nightschool.adoption.making import adopt

__all__ = ["adopt"]
