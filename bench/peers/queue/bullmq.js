// BullMQ: `node bullmq.js JOBS PORT` prints one JSON object. Jobs are added a thousand a call; one is done when its
// 'completed' event with its value has reached the client. The worker is a process of its own, 50 jobs at once.
const {fork} = require('child_process');
const {Queue, QueueEvents, Worker} = require('bullmq');

const connection = {host: '127.0.0.1', port: +process.argv[3], maxRetriesPerRequest: null};
const payload = {p: 'x'.repeat(200)};
const options = {removeOnComplete: true};
const now = () => Number(process.hrtime.bigint()) / 1e9;

async function worker() {
  const w = new Worker('q', async (job) => ({ok: 1, n: job.data.p.length}), {connection, concurrency: 50, removeOnComplete: {count: 0}});
  w.on('error', (e) => console.error(e.message));
  await w.waitUntilReady();
  process.on('SIGTERM', () => w.close().then(() => process.exit(0)));
  process.send('ready');
}

async function main(jobs) {
  const queue = new Queue('q', {connection});
  const events = new QueueEvents('q', {connection});
  await events.waitUntilReady();
  let count = 0, want = Infinity, all;
  const waiting = new Map();
  events.on('completed', ({jobId}) => {
    count += 1;
    const one = waiting.get(jobId);
    if (one) { waiting.delete(jobId); one(); }
    if (count >= want) all();
  });
  const child = fork(__filename, ['worker', process.argv[3]]);
  await new Promise((r) => child.once('message', r));
  let id = 0;
  const lone = () => new Promise((r) => {
    const jobId = `lone-${id++}`;
    waiting.set(jobId, r);
    queue.add('t', payload, {...options, jobId});
  });
  for (let i = 0; i < 100; i++) await lone();
  const times = [];
  for (let i = 0; i < 300; i++) { const start = now(); await lone(); times.push((now() - start) * 1e3); }
  times.sort((a, b) => a - b);
  count = 0;
  want = jobs;
  const done = new Promise((r) => { all = r; });
  const begin = now();
  for (let i = 0; i < jobs; i += 1000) {
    await queue.addBulk(Array.from({length: Math.min(1000, jobs - i)}, () => ({name: 't', data: payload, opts: options})));
  }
  await done;
  const seconds = now() - begin;
  await new Promise((r) => { child.once('exit', r); child.kill('SIGTERM'); });
  console.log(JSON.stringify({jobs, seconds, jobs_per_second: jobs / seconds, lone_ms: {p50: times[150], p99: times[297]}}));
  process.exit(0);
}

(process.argv[2] === 'worker' ? worker() : main(+process.argv[2])).catch((e) => { console.error(e); process.exit(1); });
