const byId = (id) => document.getElementById(id);
const drop = byId("drop");
const input = byId("file");
const waiting = [];
let working = false;
let limits = null;

const megabytes = (bytes) => `${+(bytes / 2 ** 20).toFixed(1)} MiB`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Send a file; resolves to the answer, rejects with an Error that says what is wrong. */
function send(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onerror = () => reject(new Error("The server cannot be reached, or broke off the upload."));
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(request.response?.message ?? `The server answered ${request.status} ${request.statusText}`));
    };
    request.open("POST", "predict");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(file);
  });
}

function bars(classes) {
  const list = element("ol", "classes", "");
  for (const { class: name, probability } of classes) {
    const line = element("li", "", "");
    line.style.setProperty("--share", probability);
    line.append(element("span", "", name), element("span", "", percent(probability)));
    list.append(line);
  }
  return list;
}

function show(card, { classes, views, seconds }) {
  const heads = Array.isArray(classes) ? { "": classes } : classes;
  for (const [head, found] of Object.entries(heads)) {
    if (head) card.append(element("h3", "", head));
    card.append(bars(found));
  }
  const crops = views.crops > 1 ? ` x ${views.crops} crops` : "";
  card.querySelector(".state").textContent =
    `${views.clips} ${views.clips > 1 ? "clips" : "clip"} of ${views.frames} frames${crops}, ${seconds.total.toFixed(2)} s`;
}

async function predict({ file, card }) {
  const [state, progress] = [card.querySelector(".state"), card.querySelector("progress")];
  try {
    if (limits && file.size > limits.upload_bytes) {
      throw new Error(`The file has ${megabytes(file.size)}; at most ${megabytes(limits.upload_bytes)} may be.`);
    }
    state.textContent = "Uploading";
    const answer = await send(file, (share) => {
      progress.value = share;
      if (share === 1) {
        state.textContent = "Looking at it";
        progress.removeAttribute("value");
        progress.ariaLabel = "Prediction";
      }
    });
    show(card, answer);
  } catch (error) {
    state.textContent = error.message;
    state.classList.add("bad");
  }
  progress.remove();
}

/** Files are sent one after the other. */
async function take(files) {
  for (const file of files) {
    const card = byId("result").content.cloneNode(true).firstElementChild;
    card.querySelector("h2").textContent = file.name;
    card.querySelector(".state").textContent = "Waiting";
    byId("results").prepend(card);
    waiting.push({ file, card });
  }
  if (working) return;
  working = true;
  while (waiting.length) await predict(waiting.shift());
  working = false;
}

input.addEventListener("change", () => {
  take([...input.files]);
  input.value = ""; // the same file may be chosen again
});
// Beside the field, too, a dropped file must not replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => take([...event.dataTransfer.files]));

try {
  const health = await (await fetch("health")).json();
  limits = health.limits;
  byId("facts").textContent =
    `${health.model}, ${health.classes} classes; up to ${megabytes(limits.upload_bytes)} and ${limits.video_seconds} s`;
} catch {
  byId("trouble").textContent = "The server does not answer.";
  byId("trouble").hidden = false;
}
