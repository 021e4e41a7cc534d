"""The `hyperact` command: finds the rooms' commands by entry points, reads their settings, runs one."""
