// The live view: asks for the newest data when the page is visible, and shows it.
"use strict";

const INTERVAL_MS = 66; // shortest time between two requests
const CLOUD_MS = 200; // and between two clouds
const ANSWER_MS = 4000; // the server waits for news for a second
const WINDOW_S = 30; // of the timeline
const LISTED = 30; // events in the list

const byId = (id) => document.getElementById(id);
const space = new Space(document.querySelector("#space canvas"));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function follow() {
  let number = -1, cloudAt = -CLOUD_MS;
  for (;;) {
    if (document.hidden) {
      await sleep(300);
      continue;
    }
    const began = performance.now();
    const withCloud = byId("cloud").checked && began - cloudAt >= CLOUD_MS;
    try {
      const url = `update?after=${number}${withCloud ? "&cloud" : ""}`;
      const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS) });  // the robot may leave the network
      if (!answer.ok) throw new Error(await answer.text());
      const { state, image, cloud } = parts(await answer.arrayBuffer());
      if (withCloud) {
        space.setCloud(cloud);
        cloudAt = began;
      }
      number = state.number;
      show(state, image);
    } catch (error) {
      setStale("The view does not answer: has actrec view ended?", "no connection");
      await sleep(1000);
    }
    await sleep(Math.max(INTERVAL_MS - (performance.now() - began), 0));
  }
}

function parts(buffer) {
  const [text, image, cloud] = new Uint32Array(buffer, 0, 3);
  const state = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 12, text)));
  return {
    state,
    image: image ? new Blob([new Uint8Array(buffer, 12 + text, image)], { type: "image/jpeg" }) : null,
    cloud: new DataView(buffer, 12 + text + image, cloud),
  };
}

function show(state, image) {
  byId("source").textContent = state.source;
  if (image) showImage(image);
  byId("image").hidden = !image;
  showFigures(state.figures);
  showPeople(state.people);
  showEvents(state.events, state.stamp);
  showExplanation(state.explanation);
  if (!byId("cloud").checked) space.setCloud(null);
  space.draw(state);
  if (state.closed) setStale("The view has ended.", "ended");
  else if (state.number === 0) setStale(state.figures.notice || "Waiting for the first image …", "no data yet");
  else if (state.stale) setStale(`Nothing new for ${Math.round(state.age_s)} s: has the graph stopped? ${state.figures.notice || ""}`, "old");
  else {
    document.body.classList.remove("stale");
    byId("notice").textContent = image ? "" : "No image: people alone";
    byId("status").textContent = "live";
  }
}

function setStale(notice, status) {
  document.body.classList.add("stale");
  byId("notice").textContent = notice;
  byId("status").textContent = status;
}

function showImage(blob) {
  const shown = byId("image"), last = shown.src;
  shown.src = URL.createObjectURL(blob);
  if (last) URL.revokeObjectURL(last);
}

function showFigures(figures) {
  const words = [
    ["images", figures.images_hz, "Hz"],
    ["labels", figures.labels_hz, "Hz"],
    ["image to label", figures.latency_ms, "ms"],
    ["model", figures.model, ""],
    ["on", figures.device, ""],
  ];
  const spans = words.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value, unit]) => element("span", {}, `${name} `, element("b", { textContent: value }), ` ${unit}`));
  byId("figures").replaceChildren(...spans);
}

function showPeople(people) {
  const cards = people.map((person) => {
    const share = person.confidence === null || !person.known ? "" : `${Math.round(100 * person.confidence)} %`;
    const bar = element("i");
    bar.style.width = share.replace(" ", "") || "0";
    bar.style.background = person.color;
    const card = element("div", { className: person.known ? "person" : "person unknown" },
      element("div", { className: "label", textContent: person.label || "no label yet" }),
      element("div", { className: "bar" }, bar),
      element("div", { className: "id" }, element("span", { textContent: person.id }), element("span", { textContent: share })));
    card.style.borderColor = person.color;
    return card;
  });
  byId("people").replaceChildren(...(cards.length ? cards : [element("p", { className: "empty", textContent: "No people in view" })]));
}

function showEvents(events, now) {
  const recent = events.filter((event) => event.kind === "began" || Math.abs(now - event.end) < WINDOW_S && event.end <= now + 1);
  const ids = [...new Set(recent.map((event) => event.body_id))];
  const place = (time) => 100 * Math.min(Math.max(1 - (now - time) / WINDOW_S, 0), 1);
  const tracks = ids.map((id) => {
    const track = element("div", { className: "track" }, element("b", { textContent: id }));
    for (const event of recent.filter((each) => each.body_id === id)) {
      const running = event.kind === "began";
      const name = element("span", { textContent: event.label });
      const bar = element("i", { className: running ? "running" : "", title: event.label }, name);
      bar.style.background = event.color;
      bar.style.left = `${place(event.start)}%`;
      bar.style.width = `${place(running ? now : event.end) - place(event.start)}%`;
      if (place(event.start) > 70) bar.className += " late";
      track.append(bar);
    }
    return track;
  });
  const axis = element("div", { className: "track axis" });
  for (let ago = 0; ago <= WINDOW_S; ago += 5) {
    const tick = element("span", { textContent: ago ? `−${ago} s` : "now" });
    tick.style.left = `${100 * (1 - ago / WINDOW_S)}%`;
    axis.append(tick);
  }
  byId("tracks").replaceChildren(...tracks, axis);
  const lines = events.slice(-LISTED).reverse().map((event) => {
    const running = event.kind === "began";
    const seconds = Math.max((running ? now : event.end) - event.start, 0).toFixed(1);
    return element("li", {},
      element("span", { textContent: new Date(1000 * event.start).toLocaleTimeString([], { hour12: false }) }),
      element("span", { textContent: event.body_id }),
      element("b", { textContent: event.label }),
      element("span", { textContent: running ? `${seconds} s …` : `${seconds} s` }),
      element("span", { textContent: event.confidence === null ? "" : `${Math.round(100 * event.confidence)} %` }));
  });
  byId("events").replaceChildren(...(lines.length ? lines : [element("p", { className: "empty", textContent: "No events yet" })]));
}

function showExplanation(explanation) {
  const section = byId("explanation"), shown = JSON.stringify(explanation);
  if (section.dataset.shown === shown) return;
  section.dataset.shown = shown;
  section.hidden = !explanation;
  document.body.classList.toggle("explained", !section.hidden);
  if (!explanation) return;
  const figures = explanation.files.map(({ name, version }) => element("figure", {},
    element("img", { alt: name, src: `explanation/${encodeURIComponent(name)}?${version}` }),
    element("figcaption", { textContent: name })));
  const none = element("p", { className: "empty", textContent: "No images yet: actrec explain writes them into this folder" });
  section.replaceChildren(element("h2", { textContent: `Explanation: ${explanation.folder}` }), ...(figures.length ? figures : [none]));
}

follow();
