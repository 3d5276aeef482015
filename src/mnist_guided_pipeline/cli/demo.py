"""``mnist-guided demo``: a page in the browser to play with guidance."""

from __future__ import annotations

import os
import socket

from .options import check_pipeline_folder, load_pipeline

__all__ = ["demo"]


def demo(
    model: str | None = None,
    port: int = 7860,
    host: str = "127.0.0.1",
    share: bool = False,
    device: str | None = None,
) -> None:
    """Serve a page to generate digits, compare settings and draw; it needs no network. Ctrl-C ends it.

    Example: mnist-guided demo --port 7860

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        port: Where the page is served.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        share: Also publish the page through Gradio's servers, for a week, to everyone who knows the link.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
    """
    _check_port(host, port)
    if model is not None:
        check_pipeline_folder(model)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported: nothing is reported

    from ..demo import build_demo, check_demo_installed

    check_demo_installed()
    from ..demo.look import launch_options

    page = build_demo(load_pipeline(model, device), model=model)
    page.launch(
        server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, **launch_options()
    )
    print(f"The demo is at {page.local_url}" + (f" and {page.share_url}" if share else ""), flush=True)
    page.block_thread()


def _check_port(host: str, port: int) -> None:
    """A port that can be listened on."""
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {port}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"--host {host} --port {port} cannot be listened on ({error.strerror}); name another."
            ) from error
