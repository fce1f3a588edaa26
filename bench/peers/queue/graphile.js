// graphile-worker with its batching options: `node graphile.js JOBS PROCESSES` with PGURL set prints one JSON object.
// Jobs are added a thousand a call. It keeps no results: a job is done when its row is gone, which is asked every 10 ms.
const {fork} = require('child_process');
const {run, runMigrations, makeWorkerUtils, Logger} = require('graphile-worker');
const {Pool} = require('pg');

const logger = new Logger(() => () => {});
const preset = {worker: {connectionString: process.env.PGURL, concurrentJobs: 24, maxPoolSize: 25, logger,
  localQueue: {size: 500, refetchDelay: {durationMs: 10}}, completeJobBatchDelay: 0, failJobBatchDelay: 0}};
const payload = {p: 'x'.repeat(200)};
const now = () => Number(process.hrtime.bigint()) / 1e9;

async function worker() {
  const runner = await run({preset, noHandleSignals: true, taskList: {noop: async (p) => ({ok: 1, n: p.p.length})}});
  process.on('SIGTERM', async () => { await runner.stop().catch(() => {}); process.exit(0); });
  process.send('ready');
}

async function main(jobs, processes) {
  const pool = new Pool({connectionString: process.env.PGURL, max: 4});
  await runMigrations({pgPool: pool, logger});
  const workers = Array.from({length: processes}, () => fork(__filename, ['worker'], {env: {...process.env, NO_LOG_SUCCESS: '1'}}));
  await Promise.all(workers.map((w) => new Promise((r) => w.once('message', r))));
  const submit = async (count) => {
    for (let i = 0; i < count; i += 1000) {
      await pool.query("select graphile_worker.add_jobs(array(select row('noop',$1::json,null,null,null,null,null,null)" +
        '::graphile_worker.job_spec from generate_series(1,$2::int)))', [JSON.stringify(payload), Math.min(1000, count - i)]);
    }
  };
  const drained = async () => {
    for (;;) {
      const row = await pool.query('select exists(select 1 from graphile_worker._private_jobs) as e');
      if (!row.rows[0].e) return;
      await new Promise((r) => setTimeout(r, 10));
    }
  };
  await submit(500);
  await drained();
  const begin = now();
  await submit(jobs);
  await drained();
  const seconds = now() - begin;
  await Promise.all(workers.map((w) => new Promise((r) => { w.once('exit', r); w.kill('SIGTERM'); })));
  // One job at a time, the worker in this process: from add_job to the start of its task, without its completion.
  let arrived;
  const runner = await run({preset, noHandleSignals: true, taskList: {noop: async () => arrived()}});
  const utils = await makeWorkerUtils({pgPool: pool, logger});
  const times = [];
  for (let i = 0; i < 350; i++) {
    const start = now();
    const done = new Promise((r) => { arrived = r; });
    await utils.addJob('noop', payload);
    await done;
    if (i >= 50) times.push((now() - start) * 1e3);
    await new Promise((r) => setTimeout(r, 3));
  }
  times.sort((a, b) => a - b);
  await runner.stop();
  await utils.release();
  await pool.end();
  console.log(JSON.stringify({jobs, seconds, jobs_per_second: jobs / seconds,
    lone_ms: {p50: times[150], p99: times[297]}}));
  process.exit(0);
}

(process.argv[2] === 'worker' ? worker() : main(+process.argv[2], +process.argv[3])).catch((e) => { console.error(e); process.exit(1); });
