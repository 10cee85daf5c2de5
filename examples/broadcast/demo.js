// Publishes the events of some orders to billing (two instances) and shipping; then analytics arrives and hears all of it.
//   BOOTSTRAP_SERVERS=127.0.0.1:9092 node demo.js
'use strict'

const assert = require('assert')
const { Kafka, logLevel } = require('kafkajs')
const { Shop } = require('./shop')
const { listen, Billing, Shipping, Analytics } = require('./services')

const ORDERS = 300
const PARTITIONS = 4
const LIMIT_MS = 60000
const run = Date.now()
const topic = `order-events-${run}`
const group = service => `${service}-${run}`

const kafka = new Kafka({
  clientId: 'broadcast',
  brokers: process.env.BOOTSTRAP_SERVERS.split(','),
  logLevel: logLevel.ERROR,
  retry: { initialRetryTime: 200, retries: 15 },
})

async function createTopic() {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS, replicationFactor: -1 }], waitForLeaders: true })
  await admin.disconnect()
}

// Every tenth order is cancelled before it was paid.
const isCancelled = i => i % 10 === 3
const order = i => `order-${i}`

async function publishOrders(shop) {
  for (let i = 0; i < ORDERS; i++) {
    const events = [shop.tell(order(i), 'placed', { amount: 10 + (i % 7) })]
    if (isCancelled(i)) events.push(shop.tell(order(i), 'cancelled'))
    else events.push(shop.tell(order(i), 'paid'))
    await shop.publish(events)
  }
}

async function until(what, holds) {
  const end = Date.now() + LIMIT_MS
  while (!holds()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${LIMIT_MS / 1000} s`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

// A service with as many instances as asked for; it also notes which events arrived, and how many at which instance.
class Running {
  constructor(name, logic, instances) {
    this.name = name
    this.logic = logic
    this.instances = instances
    this.arrivals = new Set()
    this.shares = new Array(instances).fill(0)
  }

  async start() {
    const partitions = new Array(this.instances).fill(0)
    const instance = i => {
      const handle = event => {
        this.arrivals.add(`${event.order} ${event.what}`)
        this.shares[i]++
        this.logic.handle(event)
      }
      return listen(kafka, topic, group(this.name), handle, count => { partitions[i] = count })
    }
    this.consumers = await Promise.all(this.shares.map((_, i) => instance(i)))
    const each = PARTITIONS / this.instances
    await until(`${this.name} has its partitions`, () => partitions.every(count => count === each))
    return this
  }

  async heard(events) {
    await until(`${this.name} hears ${events} events`, () => this.arrivals.size >= events)
  }

  async stop() {
    await Promise.all(this.consumers.map(consumer => consumer.disconnect()))
  }
}

async function main() {
  await createTopic()
  const billing = await new Running('billing', new Billing(), 2).start()
  const shipping = await new Running('shipping', new Shipping(), 1).start()
  const shop = new Shop(kafka, topic)
  await shop.open()
  await publishOrders(shop)
  const events = ORDERS * 2
  await Promise.all([billing.heard(events), shipping.heard(events)])
  console.log(`billing and shipping have each heard all ${events} events; billing's instances took ${billing.shares.join(' and ')}`)

  const analytics = await new Running('analytics', new Analytics(), 1).start()
  await analytics.heard(events)
  console.log(`analytics, which came later, has heard them too: ${JSON.stringify(analytics.logic.counts)}`)
  await Promise.all([shop.close(), billing.stop(), shipping.stop(), analytics.stop()])

  const cancelled = [...Array(ORDERS).keys()].filter(isCancelled)
  for (const service of [billing, shipping, analytics]) {
    assert.strictEqual(service.arrivals.size, events, `${service.name} has another number of events`)
  }
  // Only right when "cancelled" never overtakes "placed" of the same order.
  for (const i of cancelled) assert.strictEqual(billing.logic.billed.get(order(i)), 0, `${order(i)} was billed`)
  assert.strictEqual(shipping.logic.parcels.size, ORDERS - cancelled.length)
  assert.deepStrictEqual(analytics.logic.counts, { placed: ORDERS, paid: ORDERS - cancelled.length, cancelled: cancelled.length })
  console.log(`proved: three services heard all ${events} events, in order for each order, without knowing of each other; ` +
    'the shop sent each event once')
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
