"""Ray: joining or starting it, actors, the worker group and its life cycle, the trainer.

The only package that imports ray, except for the Ray transport in `comm`.
"""

import logging

logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # in notebooks, it recommends what is not used here
