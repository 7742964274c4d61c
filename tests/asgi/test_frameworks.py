"""What frameworks rely on, beyond the messages of ASGI: with the frameworks themselves, in virtual time."""

from __future__ import annotations

import asyncio
from typing import cast

import anyio
import httpx
import pytest
import quart
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from support.asgi_apps import MakeClient, app_client, both_clients
from support.rows import each_row

from prefect_http import RetryPolicy
from prefect_http._types import ASGIApp

pytestmark = pytest.mark.anyio


@both_clients
async def test_starlette_finds_out_that_its_reader_has_left(make_client: MakeClient) -> None:
    """``await request.is_disconnected()`` turns true when the caller has given up, and not before."""
    log: list[str] = []

    async def work(request: Request) -> Response:
        await request.body()
        while not await request.is_disconnected():  # noqa: ASYNC110  # this is how apps do it
            await anyio.sleep(0.1)
        log.append("stopped")
        return Response()

    async with make_client(Starlette(routes=[Route("/", work)])) as client:
        began = anyio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            async with client.stream("GET", "/", timeout=0.25):
                pass
        assert not log
        await anyio.sleep(0.1)
        assert log == ["stopped"]
        assert anyio.current_time() - began == pytest.approx(0.35)


@both_clients
async def test_starlettes_background_task_may_wait_for_the_disconnect(make_client: MakeClient) -> None:
    """After the whole response, the reader counts as gone, so such a task does not keep ``get()`` waiting."""

    async def endpoint(request: Request) -> Response:
        async def until_the_reader_leaves() -> None:
            while not await request.is_disconnected():  # noqa: ASYNC110  # this is how apps do it
                await anyio.sleep(0.1)

        await request.body()
        return PlainTextResponse("hello", background=BackgroundTask(until_the_reader_leaves))

    with anyio.fail_after(5):
        async with make_client(Starlette(routes=[Route("/", endpoint)])) as client:
            assert (await client.get("/")).text == "hello"


# Django and Quart listen in a task beside that of the view. They run on asyncio only; Django uses threads as well, so
# that this takes real time.

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@asyncio_only
@each_row("how", ["cancel scope", "native timeout", "total_timeout", "read timeout"])
@each_row("framework", ["Django", "Quart"])
async def test_view_is_cancelled_with_its_caller(framework: str, how: str) -> None:
    """However the caller of ``get()`` gives up, the view is cancelled and the request is finished at once."""
    log: list[str] = []
    seconds = 0.3  # by then, the view has begun, also on a busy machine
    app = django_app(log) if framework == "Django" else quart_app(log)
    async with app_client(app) as client:
        if how == "cancel scope":
            with anyio.move_on_after(seconds):
                await client.get("/")
        elif how == "native timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await client.get("/")
        elif how == "total_timeout":
            with pytest.raises(httpx.TimeoutException):
                await client.get("/", extensions={"retry": RetryPolicy(total_timeout=seconds, max_retries=0)})
        else:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", timeout=seconds)
        assert log == ["view cancelled", *["request finished"] * (framework == "Django")]


async def work(log: list[str]) -> None:
    """Do what takes long, and write down how it ended."""
    try:
        await asyncio.sleep(30)
        log.append("view returned")
    except asyncio.CancelledError:
        log.append("view cancelled")
        raise


def quart_app(log: list[str]) -> ASGIApp:
    """Return an app of Quart's with one view."""
    app = quart.Quart(__name__)

    async def view() -> str:
        await work(log)
        return "late"

    app.add_url_rule("/", view_func=view)
    return cast(ASGIApp, app)


def django_app(log: list[str]) -> ASGIApp:
    """Return an app of Django's with one view, if that is installed."""
    django, conf, asgi, http, signals, urls = (
        pytest.importorskip(name)
        for name in ("django", "django.conf", "django.core.asgi", "django.http", "django.core.signals", "django.urls")
    )
    if not conf.settings.configured:
        conf.settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="secret", LOGGING_CONFIG=None)
        django.setup()

    async def view(request: object) -> object:
        await work(log)
        return http.HttpResponse("late")

    urlpatterns[:] = [urls.path("", view)]
    urls.clear_url_caches()
    signals.request_finished.receivers.clear()
    signals.request_finished.connect(lambda **_: log.append("request finished"), weak=False)
    app: ASGIApp = asgi.get_asgi_application()
    return app


urlpatterns: list[object] = []
"""What Django finds in this module, its ROOT_URLCONF."""
