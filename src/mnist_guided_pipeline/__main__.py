"""``python -m mnist_guided_pipeline``: the command ``mnist-guided``."""

from .cli import main

if __name__ == "__main__":
    main()
