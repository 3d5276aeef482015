"""An exported pipeline where this package cannot be imported: ``python without_package.py SOURCE OUTPUT ...``."""

import sys


class Blocked:
    """Finds no module of this package, installed or not."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mnist_guided_pipeline":
            raise ModuleNotFoundError(f"{name} is not installed here")


sys.meta_path.insert(0, Blocked())

import pickle  # noqa: E402

import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402


def draw(pipe):
    return pipe([3, 7], generator=torch.Generator().manual_seed(0), output_type="pt").images


def pickled(pipe):
    return pickle.loads(pickle.dumps(pipe))


for source, output in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
    images = draw(pipe)
    assert type(pipe).__module__.startswith("diffusers_modules")
    torch.save(images, output)
    if "save_pretrained" not in vars(type(pipe)):  # an export of earlier versions
        continue
    pipe.save_pretrained(f"{output}.saved")  # with its code
    for again in (DiffusionPipeline.from_pretrained(f"{output}.saved", trust_remote_code=True), pickled(pipe)):
        assert torch.equal(draw(again), images)
assert "mnist_guided_pipeline" not in sys.modules
