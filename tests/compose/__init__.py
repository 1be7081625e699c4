"""docker-compose.yml and docker-compose.secure.yml, tried with real containers: `python -m tests.compose`."""
