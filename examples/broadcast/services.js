// The services: each is a consumer group of its own, so each hears everything. Instances of one service share the work.
'use strict'

// Runs `handle(event)` for every event, as one instance of a service; `joined(partitions)` is told how many partitions it has.
// Gives back the consumer, to be disconnected.
async function listen(kafka, topic, service, handle, joined) {
  const consumer = kafka.consumer({ groupId: service })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => joined((payload.memberAssignment[topic] || []).length))
  await consumer.connect()
  // A service that is new reads the whole past first.
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    // Offsets are committed after `handle` has returned; an event that it threw at comes again.
    eachMessage: async ({ message }) => handle(JSON.parse(message.value.toString())),
  })
  return consumer
}

// Sends the bill when an order is placed, and the money back when it is cancelled.
class Billing {
  constructor() {
    this.billed = new Map()
  }

  handle({ order, what, amount }) {
    if (what === 'placed') this.billed.set(order, amount)
    if (what === 'cancelled') this.billed.set(order, 0)
  }
}

// Sends a parcel for every order that was paid and not cancelled before.
class Shipping {
  constructor() {
    this.cancelled = new Set()
    this.parcels = new Set()
  }

  handle({ order, what }) {
    if (what === 'cancelled') this.cancelled.add(order)
    if (what === 'paid' && !this.cancelled.has(order)) this.parcels.add(order)
  }
}

// Was written a year after the shop, and still knows everything from the first day on.
class Analytics {
  constructor() {
    this.counts = { placed: 0, paid: 0, cancelled: 0 }
  }

  handle({ what }) {
    this.counts[what]++
  }
}

module.exports = { listen, Billing, Shipping, Analytics }
