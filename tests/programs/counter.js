// A counter over HTTP: each request gets the next number. A timer, a worker thread and a file are busy beside it.
const http = require("http");
const fs = require("fs");
const { Worker } = require("worker_threads");

let count = 0;
let ticks = 0;
setInterval(() => ticks++, 10);

const worker = new Worker(
  `const { parentPort } = require("worker_threads");
   parentPort.on("message", (n) => parentPort.postMessage(n + 1));`,
  { eval: true },
);

http
  .createServer((request, response) => {
    if (request.url === "/ticks") return response.end(`${ticks}\n`);
    // By way of the worker and the thread pool of the file system.
    worker.once("message", (next) => {
      fs.stat(__filename, () => {
        count = next;
        response.end(`${count}\n`);
      });
    });
    worker.postMessage(count);
  })
  .listen(Number(process.argv[2]), "0.0.0.0", () => console.log("ready"));
