"""Settings into files and rules. Pure: reads templates/ and compose/, nothing else."""
