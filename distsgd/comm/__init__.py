"""Communication between processes: transports, and the dispatcher that collects the gradients of a step."""
