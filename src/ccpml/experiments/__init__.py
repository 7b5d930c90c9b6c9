"""One typed experiment, its run directory, and the commands that make one."""
