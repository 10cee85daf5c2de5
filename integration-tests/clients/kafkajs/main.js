// kafkajs against a cluster: main.js BOOTSTRAP TOPIC GROUP COUNT. Prints one JSON line; exit code 1 on any difference.
'use strict'

const path = require('path')
const modules = path.join(process.env.CLIENTS_CACHE, 'kafkajs', 'node_modules')
const { Kafka, Partitioners, logLevel } = require(path.join(modules, 'kafkajs'))
const { version } = require(path.join(modules, 'kafkajs', 'package.json'))

const PARTITIONS = 3
const REPLICATION = 3
const BATCH = 500

const key = i => `key-${i % 97}`
const value = i => `${String(i).padStart(6, '0')} ${'odradek '.repeat(10)}`
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

async function waitFor(what, seconds, condition) {
  const end = Date.now() + seconds * 1000
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`)
    await pause(100)
  }
}

// Received records in the order of receipt for each partition.
class Ledger {
  constructor() {
    this.rows = new Map()
    this.members = new Map()
    this.count = 0
  }

  add(member, partition, message) {
    if (!this.rows.has(partition)) {
      this.rows.set(partition, [])
      this.members.set(partition, new Set())
    }
    this.rows.get(partition).push(message)
    this.members.get(partition).add(member)
    this.count++
  }

  verify(count, ends) {
    const seen = new Map()
    const readers = new Set()
    for (const [partition, rows] of this.rows) {
      let last = -1
      rows.forEach((message, receipt) => {
        const at = `partition ${partition} offset ${message.offset}`
        const text = message.value.toString()
        const i = Number(text.slice(0, 6))
        if (message.offset !== String(receipt)) throw new Error(`${at}: receipt ${receipt}`)
        if (text !== value(i) || message.key.toString() !== key(i)) throw new Error(`${at}: a damaged record`)
        if (seen.has(i)) throw new Error(`${at}: record ${i} was already at ${seen.get(i)}`)
        if (i <= last) throw new Error(`${at}: record ${i} came after ${last}`)
        last = i
        seen.set(i, at)
      })
      if (this.members.get(partition).size !== 1) throw new Error(`partition ${partition} was read by both members`)
      this.members.get(partition).forEach(m => readers.add(m))
      if (ends[partition] !== String(rows.length)) {
        throw new Error(`partition ${partition}: ${rows.length} received, end offset ${ends[partition]}`)
      }
    }
    for (let i = 0; i < count; i++) if (!seen.has(i)) throw new Error(`record ${i} is missing`)
    if (seen.size !== count || readers.size !== 2) throw new Error(`${seen.size} records, ${readers.size} members`)
  }
}

async function describe(admin, topic) {
  await waitFor('three partitions, each with three replicas in sync', 30, async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    const partitions = topics[0].partitions
    return (
      partitions.length === PARTITIONS &&
      partitions.every(p => p.replicas.length === REPLICATION && p.isr.length === REPLICATION)
    )
  })
}

async function groupOfTwo(kafka, topic, group, ledger) {
  const consumers = []
  const assigned = [0, 0]
  for (const member of [0, 1]) {
    const consumer = kafka.consumer({ groupId: group })
    consumers.push(consumer)
    consumer.on(consumer.events.GROUP_JOIN, event => {
      assigned[member] = (event.payload.memberAssignment[topic] || []).length
    })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      eachMessage: async ({ partition, message }) => ledger.add(member, partition, message),
    })
  }
  await waitFor('both members have partitions', 60, async () => {
    return assigned.every(n => n > 0) && assigned[0] + assigned[1] === PARTITIONS
  })
  return consumers
}

async function produce(kafka, topic, count) {
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, allowAutoTopicCreation: false })
  await producer.connect()
  for (let i = 0; i < count; i += BATCH) {
    const messages = []
    for (let j = i; j < Math.min(i + BATCH, count); j++) messages.push({ key: key(j), value: value(j) })
    const answers = await producer.send({ topic, messages, acks: -1 })
    const refused = answers.filter(a => a.errorCode !== 0)
    if (refused.length > 0) throw new Error(JSON.stringify(refused))
  }
  await producer.disconnect()
}

async function consume(admin, topic, group, count, consumers, ledger) {
  await waitFor('all records', 90, async () => ledger.count >= count)
  // Stopping a consumer ends its batch and commits what it resolved.
  for (const consumer of consumers) await consumer.stop()
  for (const consumer of consumers) await consumer.disconnect()
  const ends = {}
  for (const { partition, offset } of await admin.fetchTopicOffsets(topic)) ends[partition] = offset
  ledger.verify(count, ends)
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  for (const { partition, offset } of partitions) {
    if (offset !== ends[partition]) throw new Error(`partition ${partition}: committed ${offset}, end ${ends[partition]}`)
  }
}

async function main(bootstrap, topic, group, count) {
  const row = { client: 'kafkajs', version, create: '-', list: '-', describe: '-', produce: '-', consume: '-', detail: '' }
  const step = async (column, action) => {
    if (row.detail) return undefined
    try {
      const result = await action()
      row[column] = 'ok'
      return result
    } catch (error) {
      row[column] = 'FAILED'
      row.detail = `${column}: ${error.message}`
      return undefined
    }
  }
  const kafka = new Kafka({ clientId: 'interop', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  const ledger = new Ledger()
  await step('create', async () => {
    await admin.connect()
    const created = await admin.createTopics({
      topics: [{ topic, numPartitions: PARTITIONS, replicationFactor: REPLICATION }],
      waitForLeaders: true,
    })
    if (!created) throw new Error('the topic was there already')
  })
  await step('list', () => waitFor('topic in the list', 20, async () => (await admin.listTopics()).includes(topic)))
  await step('describe', () => describe(admin, topic))
  const consumers = await step('consume', () => groupOfTwo(kafka, topic, group, ledger))
  await step('produce', () => produce(kafka, topic, count))
  await step('consume', () => consume(admin, topic, group, count, consumers, ledger))
  console.log(JSON.stringify(row))
  process.exit(row.detail ? 1 : 0)
}

main(process.argv[2], process.argv[3], process.argv[4], Number(process.argv[5]))
