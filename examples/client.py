"""A client of the service: verify two photographs, enrol a person, find and forget them.

Give the URL of a service. Without one, the example starts a service with an untrained network and drawn faces.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import simplejpeg

from normface.data.synthetic import photograph

folder = Path(tempfile.mkdtemp())
process = None
if len(sys.argv) > 1:
    url = sys.argv[1]
else:
    from normface import models
    from normface.embed.export import export

    export(models.build("smallresnet").eval(), folder / "model.onnx", sha256="untrained")
    words = ["--model", folder / "model.onnx", "--gallery", f"file:{folder / 'people.db'}", "--port", "0"]
    program = [sys.executable, "-c", "from normface.cli import main; main()", "serve", *words]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    url = json.loads(process.stderr.readline())["url"]

ann, ann_again, bob = (
    simplejpeg.encode_jpeg(photograph(0, person, picture, strength=0.4)) for person, picture in ((0, 0), (0, 1), (1, 0))
)
# With keys: headers={"Authorization": "Bearer nf_…"}
with httpx.Client(base_url=url, timeout=600) as service:

    def ask(method, path, **request):
        response = service.request(method, path, **request)
        if response.is_error:
            sys.exit("expected {expected}, got {got}; {do}".format(**response.json()))
        return response.json()

    for name, other in (("Ann again", ann_again), ("Bob", bob)):
        told = ask("POST", "/v1/verify", files={"a": ann, "b": other})
        print(f"Ann and {name}: cosine {told['score']:.3f}, one person: {told['same']} ({told['note']})")

    form = {"person": "Ann (an example)", "consent": "drawn, not photographed"}
    enrolled = ask("POST", "/v1/people", files=[("photographs", ann)], data=form)
    best = ask("POST", "/v1/search", files={"photograph": ann_again}, data={"k": 1})["matches"][0]
    print(f"most like {best['person']}: cosine {best['score']:.3f}")
    gone = ask("DELETE", f"/v1/people/{enrolled['id']}")
    print(f"forgotten: {gone['erased']} template")

if process:
    process.terminate()
    process.wait()
