"""From a configuration to a result: what is refused, what is set up, and training until the result is written."""
