"""A page of viser's on an address of this machine."""

import contextlib
import errno
import importlib.util
import io
import socket
from typing import TYPE_CHECKING

from dreamfusion_jax.checks import MissingExtraError

if TYPE_CHECKING:
    import viser

LOCAL = "127.0.0.1"
"""Seen from this machine alone."""

PORT = 8080
"""Where a page is served if nothing else is said."""


class PortError(ValueError):
    """The page cannot be served where it was wanted; the message is one line for the user."""


def open_server(host: str, port: int, title: str) -> "viser.ViserServer":
    """Starts to serve an empty page.

    Args:
        host: Address to listen at.
        port: 0 takes any that is free.
        title: Of the panel with the controls.

    Raises:
        PortError: The port is taken, or the address is not this machine's.
        MissingExtraError: viser is not installed.
    """
    port = check_place(host, port)
    import viser

    with contextlib.redirect_stdout(io.StringIO()):  # It prints a box of addresses.
        server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
    if server.get_port() != port:  # Another program was quicker; viser took the next one.
        close_server(server)
        raise PortError(f"port {port} of {host} is taken by another program")
    server.gui.configure_theme(control_width="medium", show_logo=False, show_share_button=False)
    return server


def close_server(server: "viser.ViserServer") -> None:
    """Ends all connections and gives the port back."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def address_of(server: "viser.ViserServer") -> str:
    """What to type into a browser."""
    return f"http://{server.get_host()}:{server.get_port()}"


def check_place(host: str, port: int) -> int:
    """Refuses where no page can be served; viser itself would silently take the next free port.

    Returns:
        The port, or a free one for 0.

    Raises:
        PortError: See `open_server`.
        MissingExtraError: See `open_server`.
    """
    if importlib.util.find_spec("viser") is None:
        raise MissingExtraError("the viewer", "viewer")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                reason += "; 0 takes any port that is free"
            raise PortError(f"cannot listen at port {port} of {host}: {reason}") from error
        return trial.getsockname()[1]
