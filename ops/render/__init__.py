"""Settings into files, rules and argument lists. Pure: reads templates/ and compose/, nothing else."""
