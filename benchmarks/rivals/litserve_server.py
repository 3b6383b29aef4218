"""The cascade behind LitServe: `Cascade.answer` on the batches that it forms; base64 in JSON."""

from typing import Any

import litserve
import rival_cascade


class Served(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.cascade = rival_cascade.cascade(rival_cascade.settings())

    def decode_request(self, request):  # LitServe reads the annotation: none means JSON
        return rival_cascade.pixels(request["image"])

    def batch(self, inputs: Any) -> Any:
        return inputs

    def predict(self, inputs: Any) -> Any:
        return rival_cascade.answers(self.cascade, inputs)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    told = rival_cascade.settings()
    api = Served(max_batch_size=told["batch"], batch_timeout=told["wait"])
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=told["workers"], fast_queue=True
    )
    server.run(host="127.0.0.1", port=told["port"], log_level="warning", generate_client_file=False)
