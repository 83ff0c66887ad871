"""Where two runs part: the command `ropewalk compare`."""
