"""What a step and a run are, without Ray: run spec, plan, serial loop, worker, parameter server, validation."""
