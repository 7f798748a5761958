"""From a backup back to running data: drills that throw away, restores that switch."""
