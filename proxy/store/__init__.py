"""What outlives the process: the history in SQLite. Nobody on the way of a request waits for anything in here."""
