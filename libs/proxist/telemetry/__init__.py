"""What a process says about itself. In: events of the code. Out: log lines on stderr (`logs`), spans
to an OTLP collector where the OTEL_* variables say so (`setup`, `tracing`, `spans`), figures on /metrics (`metrics`)."""
