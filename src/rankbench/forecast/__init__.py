"""Before a run: settings enter; its memory, its steps and what the machine lacks leave. No weights are read."""
