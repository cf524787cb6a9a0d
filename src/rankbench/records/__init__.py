"""What a run leaves: records are read here, as dictionaries or as a tidy table, and a run's folder is locked."""
