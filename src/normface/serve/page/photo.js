// <photo-input>: a photograph by choosing, dropping or the camera.

import { fill, make } from "./dom.js";

class PhotoInput extends HTMLElement {
  files = [];

  connectedCallback() {
    const id = `photo-${this.getAttribute("name")}-${this.closest("form").id}`;
    const many = this.hasAttribute("multiple");
    const label = this.getAttribute("label");
    this.input = make("input", { type: "file", id, accept: "image/*", class: "hidden", ...(many && { multiple: "" }) });
    this.input.addEventListener("change", () => this.take(this.input.files));
    this.thumbs = make("div", { class: "thumbs" });
    this.empty = many ? "Drop photographs here" : "Drop a photograph here";
    this.hint = make("p", { class: "soft", role: "status" }, this.empty);
    this.choose = make("label", { class: "button", for: id }, "Choose", make("span", { class: "hidden" }, ` ${label}`));
    this.camera = make("button", { type: "button", onclick: () => this.open() }, "Camera", make("span", { class: "hidden" }, ` for ${label}`));
    this.camera.hidden = !navigator.mediaDevices?.getUserMedia;
    this.row = make("div", { class: "row" }, this.choose, this.input, this.camera);
    this.drop = make("div", { class: "drop", role: "group", "aria-label": label }, make("strong", {}, label), this.thumbs, this.hint, this.row);
    for (const kind of ["dragover", "dragleave", "drop"]) this.drop.addEventListener(kind, (event) => this.dragged(event));
    this.append(this.drop);
  }

  dragged(event) {
    event.preventDefault();
    this.drop.classList.toggle("over", event.type === "dragover");
    if (event.type === "drop") this.take(event.dataTransfer.files);
  }

  take(files) {
    const images = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
    if (!images.length) return void (this.hint.textContent = "That is no image.");
    this.files = this.hasAttribute("multiple") ? [...this.files, ...images] : images.slice(0, 1);
    this.show();
  }

  clear() {
    this.files = [];
    this.input.value = "";
    this.show();
  }

  show() {
    for (const image of this.thumbs.children) URL.revokeObjectURL(image.src);
    fill(this.thumbs, ...this.files.map((file) => make("img", { src: URL.createObjectURL(file), alt: "" })));
    this.hint.textContent = this.files.length ? this.files.map((file) => file.name).join(", ") : this.empty;
  }

  async open() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    } catch (error) {
      return void (this.hint.textContent = `No camera: ${error.message}`);
    }
    const video = make("video", { muted: "", playsinline: "", "aria-label": "Camera" });
    video.srcObject = stream;
    const end = () => {
      stream.getTracks().forEach((track) => track.stop());
      fill(this.row, this.choose, this.input, this.camera);
      video.remove();
      this.camera.focus();
    };
    const shoot = make("button", { type: "button", onclick: async () => {
      const canvas = make("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
      this.take([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
      end();
    } }, "Take photograph");
    fill(this.row, shoot, make("button", { type: "button", onclick: end }, "Cancel"));
    this.thumbs.after(video);
    await video.play();
    shoot.focus();
  }
}

customElements.define("photo-input", PhotoInput);
