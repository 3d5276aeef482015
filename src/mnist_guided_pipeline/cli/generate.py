"""``mnist-guided generate`` and ``demo``: guided images as one picture, or on a page in the browser."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection
from typing import Annotated

from tyro.conf import arg

from .options import (
    MOST_IMAGES,
    Device,
    Force,
    GuidanceOptions,
    Model,
    Picture,
    check_model,
    check_new_file,
    check_packages,
    check_range,
    load_pipeline,
    scheduler_settings,
)


def generate(
    output: Picture,
    class_labels: tuple[str, ...] = (),
    num_images_per_label: int = 8,
    model: Model = None,
    scheduler: Annotated[str | None, arg(metavar="NAME")] = None,
    scheduler_options: Annotated[str, arg(metavar="JSON")] = "{}",
    num_inference_steps: int | None = None,
    timesteps: tuple[int, ...] = (),
    sigmas: tuple[float, ...] = (),
    guidance_scale: tuple[float, ...] = (),
    cfg_scale: float | None = None,
    eta: float = 0.0,
    negative_class_labels: tuple[str, ...] = (),
    num_particles: int = 1,
    seed: int = 0,
    device: Device = None,
    guidance: Annotated[GuidanceOptions, arg(name="")] = GuidanceOptions(),  # noqa: B008 - it is frozen
    force: Force = False,
) -> None:
    """Draw guided images and write them as one picture, one row per label.

    Example: mnist-guided generate --class_labels 3 7 --output digits.png

    Args:
        class_labels: Class names or indices, one row each; one row of every class if left out.
        num_images_per_label: Images in a row.
        scheduler: Name of a diffusers scheduler, such as DDIMScheduler; the pipeline's own if left out.
        scheduler_options: Further settings of the scheduler, such as '{"use_karras_sigmas": true}'.
        num_inference_steps: Steps of the scheduler; the pipeline's own number if left out.
        timesteps: Timesteps of one's own, for schedulers that take them.
        sigmas: Sigmas of one's own, for schedulers that take them.
        guidance_scale: 0 is off, 1 is Bayes' rule. One number, or one per label; the pipeline's own if left out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off, 0 leaves the labels to the
            classifier alone. The model's own value if left out.
        eta: Stochasticity of DDIM, from 0 to 1.
        negative_class_labels: In place of class_labels: any class but this one, one row each.
        num_particles: Draw each image as one of this many weighted particles, which makes guidance exact at any scale.
        seed: Every image has a random generator of its own, made from the seed, its row and its column.
        guidance: Shared by the commands that draw guided images.
    """
    started = time.perf_counter()
    check_new_file(output, force)
    check_range("num_images_per_label", num_images_per_label, 1, MOST_IMAGES)
    settings = scheduler_settings(scheduler_options)
    pipe = load_pipeline(model, device, guidance.dtype)

    from ..figures.images import image_rows, save_figure
    from ..sampling.arguments import resolve_labels
    from ..seeding import keyed_generator

    if scheduler is not None or settings:
        pipe.scheduler = pipe.make_scheduler(scheduler or type(pipe.scheduler), **settings)
    names = pipe.id2label
    wanted = [_label(text, names.values()) for text in class_labels]
    unwanted = [_label(text, names.values()) for text in negative_class_labels]
    if not wanted and not unwanted and (pipe.classifier is not None or pipe.denoiser_is_conditional):
        wanted = list(names)
    rows = [names[index] for index in resolve_labels(wanted, names).tolist()] if wanted else []
    rows += [f"not {names[index]}" for index in resolve_labels(unwanted, names).tolist()] if unwanted else []
    rows = rows or [""]
    check_range("class_labels", len(rows), 1, MOST_IMAGES)
    loaded = time.perf_counter()
    images = pipe(
        wanted or None,
        num_images_per_label=num_images_per_label,
        guidance_scale=guidance_scale[0] if len(guidance_scale) == 1 else guidance_scale or None,
        cfg_scale=cfg_scale,
        num_inference_steps=num_inference_steps,
        timesteps=list(timesteps) or None,
        sigmas=list(sigmas) or None,
        eta=eta,
        generator=[keyed_generator(seed, row, i) for row in range(len(rows)) for i in range(num_images_per_label)],
        negative_class_labels=unwanted or None,
        num_particles=num_particles,
        **guidance.call_arguments(),
    ).images
    sampled = time.perf_counter()
    chosen = len(timesteps) or num_inference_steps or pipe.sampling_defaults["num_inference_steps"]
    steps = pipe.num_timesteps if sigmas else chosen  # some schedulers append a sigma of 0
    in_rows = [images[start : start + num_images_per_label] for start in range(0, len(images), num_images_per_label)]
    save_figure(image_rows(in_rows, rows), output)
    print(
        f"{output}: {len(images)} images by {type(pipe.scheduler).__name__} in {steps} steps; "
        f"sampling took {sampled - loaded:.1f} s, with loading and writing {time.perf_counter() - started:.1f} s."
    )


def demo(
    model: Model = None,
    port: int = 7860,
    host: str = "127.0.0.1",
    share: bool = False,
    device: Device = None,
    judge: Annotated[str | None, arg(metavar="ID")] = None,
) -> None:
    """Serve a page to generate digits, compare settings and draw; it needs no network. Ctrl-C ends it.

    Example: mnist-guided demo --port 7860

    Args:
        port: Where the page is served.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        share: Also publish the page through Gradio's servers, for a week, to everyone who knows the link.
        judge: Folder or Hub id of an image classifier that reads the images; the one shipped with the package, for grey
            images of 28x28, if left out.
    """
    _check_port(host, port)
    check_model(judge, "config.json", what="judge", option="--judge")
    check_packages(("gradio", "matplotlib"), "demo")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported: nothing is reported
    pipe, reader = load_pipeline(model, device), None

    from ..demo.look import launch_options
    from ..demo.page import build_demo
    from ..evaluation.judge import Judge

    if judge is not None:
        reader = Judge.from_pretrained(judge).of_classes(tuple(pipe.id2label.values())).to(pipe.device)
    page = build_demo(pipe, reader, model)
    page.launch(
        server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, **launch_options()
    )
    print(f"The demo is at {page.local_url}" + (f" and {page.share_url}" if share else ""), flush=True)
    page.block_thread()


def _label(text: str, names: Collection[str]) -> str | int:
    """A class name where it is one, else an index where it is a whole number."""
    return int(text) if text not in names and text.removeprefix("-").isdecimal() else text


def _check_port(host: str, port: int) -> None:
    """A port that can be listened on."""
    check_range("port", port, 1, 65535)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(
                f"--host {host} --port {port} cannot be listened on ({error.strerror}); name another."
            ) from error
