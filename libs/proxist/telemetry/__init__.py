"""What a process says about itself. In: events of the code. Out: log lines on stderr (traces and metrics join later)."""
