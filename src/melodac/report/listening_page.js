// Players of the listening page: one sound at a time, a playhead on its picture, keys.
// Without this script every clip keeps the browser's own controls.
(() => {
  "use strict";
  const SEEK_S = 2;
  const clips = [];
  let current = null;

  const clockText = (seconds) => {
    const whole = Math.floor(seconds);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  };

  class Clip {
    constructor(figure) {
      this.figure = figure;
      this.audio = figure.querySelector("audio");
      this.picture = figure.querySelector(".picture");
      this.playhead = figure.querySelector(".playhead");
      this.button = figure.querySelector(".play");
      this.now = figure.querySelector(".now");
      this.name = figure.getAttribute("aria-label");
      this.wanted = null; // a position asked for before the browser has opened the file
      this.takeOver();
      this.listen();
      this.draw();
    }

    takeOver() {
      this.audio.controls = false;
      this.button.hidden = false;
      const slider = { role: "slider", tabindex: "0", "aria-label": `Position in ${this.name}`, "aria-valuemin": "0" };
      for (const [key, value] of Object.entries(slider)) this.picture.setAttribute(key, value);
      this.picture.setAttribute("aria-valuemax", this.duration.toFixed(1));
    }

    listen() {
      this.button.addEventListener("click", () => this.toggle());
      this.picture.addEventListener("click", (event) => {
        const box = this.picture.getBoundingClientRect();
        this.seek(((event.clientX - box.left) / box.width) * this.duration);
        this.play();
      });
      this.picture.addEventListener("focus", () => choose(this));
      this.audio.addEventListener("play", () => this.started());
      for (const name of ["pause", "seeked", "ended"]) this.audio.addEventListener(name, () => this.draw());
      this.audio.addEventListener("loadedmetadata", () => {
        if (this.wanted !== null) this.audio.currentTime = this.wanted;
        this.wanted = null;
      });
      this.audio.addEventListener("error", () => this.fail());
    }

    get duration() {
      const measured = this.audio.duration;
      return Number.isFinite(measured) ? measured : Number(this.figure.dataset.duration);
    }

    get position() {
      return this.wanted ?? this.audio.currentTime;
    }

    started() {
      choose(this);
      for (const other of clips) if (other !== this) other.audio.pause();
      this.follow();
    }

    follow() {
      this.draw();
      if (!this.audio.paused) requestAnimationFrame(() => this.follow());
    }

    play() {
      // pausing before the sound starts rejects the promise, which is no fault
      this.audio.play().catch((error) => error.name === "AbortError" || this.fail());
    }

    toggle() {
      if (this.audio.paused) this.play();
      else this.audio.pause();
    }

    seek(seconds) {
      const target = Math.min(Math.max(seconds, 0), this.duration);
      if (this.audio.readyState > 0) this.audio.currentTime = target;
      else this.wanted = target;
      choose(this);
      this.draw();
    }

    draw() {
      const { position, duration } = this;
      const isPlaying = !this.audio.paused && !this.audio.ended;
      this.figure.classList.toggle("is-playing", isPlaying);
      this.button.setAttribute("aria-label", `${isPlaying ? "Pause" : "Play"} ${this.name}`);
      this.playhead.hidden = position === 0 && !isPlaying;
      this.playhead.style.left = `${(100 * position) / Math.max(duration, 1e-3)}%`;
      this.now.textContent = clockText(position);
      this.picture.setAttribute("aria-valuenow", position.toFixed(1));
      this.picture.setAttribute("aria-valuetext", `${clockText(position)} of ${clockText(duration)}`);
    }

    fail() {
      this.figure.classList.add("has-failed");
      this.now.parentElement.textContent = "This browser cannot play the file.";
      this.button.disabled = true;
    }
  }

  function choose(clip) {
    current?.figure.classList.remove("is-current");
    current = clip;
    clip.figure.classList.add("is-current");
  }

  function leave() {
    current.audio.pause();
    current.figure.classList.remove("is-current");
    current = null;
    document.activeElement.blur();
  }

  function move(steps) {
    const next = clips[clips.indexOf(current) + steps];
    if (!next) return;
    const wasPlaying = current && !current.audio.paused;
    current?.audio.pause();
    next.picture.focus({ preventScroll: true });
    next.figure.scrollIntoView({ block: "nearest" });
    if (wasPlaying) next.play();
  }

  const actions = {
    " ": () => current.toggle(),
    ArrowLeft: () => current.seek(current.position - SEEK_S),
    ArrowRight: () => current.seek(current.position + SEEK_S),
    ArrowUp: () => move(-1),
    ArrowDown: () => move(1),
    Escape: () => leave(),
  };

  document.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    const hasModifier = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
    if (!action || !current || hasModifier) return;
    const ownKeys = event.key === " " ? "a, button, summary, .facts" : ".facts";
    if (event.target.closest(ownKeys)) return;
    event.preventDefault(); // before a clip is chosen, space and arrows scroll as everywhere
    action();
  });

  for (const figure of document.querySelectorAll(".clip")) clips.push(new Clip(figure));
  document.querySelector(".keys").hidden = false;
})();
