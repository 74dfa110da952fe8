"""What lets a run survive faults: sealed files, recovery, signals, several processes."""
