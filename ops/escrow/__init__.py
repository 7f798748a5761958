"""The recovery file: what a new machine needs to open the backups, for two people or more."""
