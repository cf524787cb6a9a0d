"""Files, seeds, processes, signals, progress, GPUs and Slurm's commands: nothing here knows of ranks."""
