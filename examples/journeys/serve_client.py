"""A client of the server that serve.sh has started."""

# -> docs/serving.md#in-ten-minutes
import tritonclient.http as triton
from PIL import Image
from understudy.zoo.data import open_data

pixels = open_data("digits:heldout").image(0).numpy()  # uint8 (1, 8, 8)
Image.fromarray(pixels[0]).save("digit.png")

client = triton.InferenceServerClient("localhost:8000")
image = triton.InferInput("image", [1, 1, 8, 8], "UINT8")
image.set_data_from_numpy(pixels[None])
answer = client.infer("digits", [image])
print(answer.as_numpy("prediction"), answer.as_numpy("confidence"), answer.as_numpy("exit"))
# <-

assert answer.get_response()["parameters"]["operating_point"] == "drop-2"
