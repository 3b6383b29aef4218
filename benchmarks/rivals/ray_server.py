"""The cascade behind Ray Serve: `Cascade.answer` on the batches that it forms; pixels as bytes."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import ray
import rival_cascade
from ray import serve

told = rival_cascade.settings()


@serve.deployment(
    num_replicas=told["workers"],
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0.5},
    logging_config={"enable_access_log": False},
)
class Served:
    def __init__(self) -> None:
        self.cascade = rival_cascade.cascade(told)

    @serve.batch(max_batch_size=told["batch"], batch_wait_timeout_s=told["wait"])
    async def answers(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        images = [np.frombuffer(b, np.uint8).reshape(rival_cascade.SHAPE) for b in bodies]
        return rival_cascade.answers(self.cascade, images)

    async def __call__(self, request: Any) -> dict[str, Any]:
        if request.method == "GET":  # is it ready?
            return {}
        return await self.answers(await request.body())


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(
        http_options={"host": "127.0.0.1", "port": told["port"]},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    serve.run(Served.bind(), route_prefix="/")
    print("serving", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
