// The close suite's jobs, as programs of Node's net and http modules do them: node node.js
"use strict";
const net = require("net");
const http = require("http");
const env = process.env;
const host = env.ROKET_HOST, port = Number(env.ROKET_PORT), bytes = Number(env.ROKET_BYTES || 0);
const wait = (run) => setTimeout(run, 1000 * Number(env.ROKET_SECONDS || 0));
const kept = [];
let server = null;

function stay() {
  process.stdin.on("end", () => process.exit(0));
  process.stdin.resume();
}

function end() { // not exit(), which drops what standard output still has to take
  process.stdin.destroy();
  if (server) server.close();
}

function readInput(count, then) {
  let data = Buffer.alloc(0);
  process.stdin.on("readable", function take() {
    for (let chunk; data.length < count && (chunk = process.stdin.read(Math.min(count - data.length, process.stdin.readableLength || 1)));) data = Buffer.concat([data, chunk]);
    if (data.length === count) {
      process.stdin.removeListener("readable", take);
      then(data);
      stay();
    }
  });
}

const jobs = {
  "pipe": (socket) => {
    socket.on("error", () => { process.exitCode = 1; });
    process.stdin.pipe(socket);
    socket.pipe(process.stdout);
    socket.on("close", end);
  },
  "idle": (socket) => { kept.push(socket); socket.on("error", () => {}); stay(); },
  "send-close": (socket) => { socket.on("error", () => {}); readInput(bytes, (data) => { socket.write(data); socket.destroySoon(); }); },
  "cancel-send": (socket) => { socket.on("error", () => {}); socket.write(Buffer.alloc(bytes)); wait(() => socket.destroy()); stay(); },
  "close-in-receive": (socket) => {
    socket.on("end", () => process.stdout.write("eof\n"));
    socket.on("close", () => process.stdout.write("closed\n"));
    socket.on("data", () => {});
    wait(() => socket.destroy());
    stay();
  },
  "late-read": (socket) => {
    socket.on("error", () => { process.exitCode = 1; });
    wait(() => { socket.pipe(process.stdout); socket.on("close", end); });
  },
  "echo": (socket) => { socket.on("error", () => {}); socket.pipe(socket); },
  "forget": (socket) => { kept.push(socket); socket.on("error", () => {}); },
};
jobs["cancel-close"] = jobs["close-in-send"] = jobs["cancel-send"];

if (env.ROKET_JOB === "pool" && env.ROKET_ROLE === "client") {
  const agent = new http.Agent({ keepAlive: true });
  http.get({ host, port, agent }, (answer) => { answer.resume(); });
  stay();
} else if (!(env.ROKET_JOB in jobs)) {
  process.exit(127);
} else if (env.ROKET_ROLE === "client") {
  const socket = net.connect({ host, port, allowHalfOpen: env.ROKET_JOB === "pipe" }, () => jobs[env.ROKET_JOB](socket));
} else {
  server = net.createServer({ allowHalfOpen: ["pipe", "echo"].includes(env.ROKET_JOB) }, (socket) => jobs[env.ROKET_JOB](socket));
  server.listen(port, host);
  if (["echo", "forget"].includes(env.ROKET_JOB)) stay();
}
