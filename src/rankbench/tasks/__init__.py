"""A task's data: files enter, encoded splits and values of metrics leave."""
