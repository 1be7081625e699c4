"""The training algorithm, without Ray: run spec, plan, serial loop, worker, parameter server, validation."""
