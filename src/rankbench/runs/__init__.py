"""One run's life and work: a checked `Run` enters, a folder with its record leaves."""
