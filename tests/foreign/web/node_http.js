// What every server of the table serves (see asgi_app.py), with Node's http or https: node node_http.js PORT [CERT KEY]
"use strict";
const fs = require("fs");
const http = require("http");
const https = require("https");
const large = Buffer.alloc(16 << 20);

function answer(response, status, body) {
  response.writeHead(status, { "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

const pages = {
  "/": (request, response) => answer(response, 200, "hello\n"),
  "/large": (request, response) => answer(response, 200, large),
  "/slow": (request, response) => {
    response.writeHead(200, { "Content-Length": 20 });
    let count = 0;
    const timer = setInterval(() => {
      response.write(".\n");
      if (++count === 10) {
        clearInterval(timer);
        response.end();
      }
    }, 200);
    response.on("close", () => clearInterval(timer));
  },
  "/upload": (request, response) => {
    let count = 0;
    request.on("data", (chunk) => { count += chunk.length; });
    request.on("end", () => answer(response, 200, `${count}\n`));
  },
  "/refuse": (request, response) => answer(response, 413, "too large\n"),
  "/fail": (request, response) => {
    response.writeHead(200, { "Content-Length": 200000 });
    response.write(Buffer.alloc(100000), () => response.destroy(new Error("half-way through the answer")));
  },
};

function serve(request, response) {
  const page = pages[request.url];
  if (page) page(request, response);
  else answer(response, 404, "not found\n");
}

const [port, cert, key] = process.argv.slice(2);
const server = cert ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, serve) : http.createServer(serve);
server.listen(Number(port), "127.0.0.1");
