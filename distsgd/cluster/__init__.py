"""Ray: joining or starting it, actors, the worker group and its life cycle, the trainer.

The only package that imports ray, but for the transport of Ray calls in `comm`.
"""
