"""The service: engine, jobs, HTTP, command line, comparison and promotion."""
