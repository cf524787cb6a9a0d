"""What is asked of a run: words and YAML enter, a typed and checked `Run` leaves. No torch."""
