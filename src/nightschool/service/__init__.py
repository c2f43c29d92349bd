"""nightschool as a service of systemd: the unit, what it says, and the commands that put it in place."""
