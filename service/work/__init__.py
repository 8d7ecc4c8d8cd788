"""Long work, one module for each kind of job: ``run(workspace, inputs, report) -> outputs``."""
