// Node's fetch (undici), for the jobs `http-...`.
import { createReadStream, statSync } from "node:fs";

const { ROKET_JOB: job, ROKET_URL: url, ROKET_FILE: file, ROKET_SECONDS: seconds } = process.env;

async function get(signal) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
}

async function again(signal) {
  try {
    process.stdout.write((await get(signal)) + "\n");
  } catch (error) {
    console.error(error);
    process.stdout.write("failed\n");
  }
}

async function put() {
  const headers = { "Content-Length": statSync(file).size };
  const answer = await fetch(url, { method: "PUT", body: createReadStream(file), duplex: "half", headers });
  return Buffer.from(await answer.arrayBuffer());
}

if (job === "http-get") {
  process.stdout.write(await get());
} else if (job === "http-put") {
  process.stdout.write(await put());
} else if (job?.startsWith("http-")) {
  await again(seconds && AbortSignal.timeout(Number(seconds) * 1000));
  for await (const _ of process.stdin) await again();
  process.exit(0);
} else {
  process.exit(127);
}
