-- An epoch begins with a new server, with an empty one, with one that is another than before, and with one that knows
-- less than it said before: after a restart, a failover or a restored copy Redis may hold less than it was told. INFO may
-- be forbidden; then a restart alone begins none.
--
-- Epochs are numbered, each higher than all that the server or whoever began it knew. So what a caller was told tells
-- also an earlier epoch that was loaded again.
--
-- Of every script: KEYS[1] is the bookkeeping hash, ARGV[1] a name for an epoch to begin, ARGV[2..4] the epoch, seq and ticket that
-- the caller was told before. Every answer begins with {epoch, seq, ticket, keys that were moved aside with their types}.
if redis.replicate_commands then
    redis.replicate_commands()
end
--#include aside
local function count(text)
    return #(text or '0') < 16 and tonumber(string.match(text or '0', '^%d+$')) or nil
end
local function number(of)
    return count(string.match(of, '^(%d+)%-')) or 0
end
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
local book = redis.pcall('HMGET', KEYS[1], 'epoch', 'run', 'seq', 'ticket')
local epoch, seq, ticket = book[1], count(book[3]), count(book[4])
if book.err or not seq or not ticket then
    aside(KEYS[1])
    epoch = nil
end
local highest = math.max(number(epoch or ''), number(ARGV[2]))
local goes_back = epoch and ARGV[2] ~= '' and (
    number(epoch) < highest
    or (epoch ~= ARGV[2] and number(ARGV[2]) == highest)
    or (epoch == ARGV[2] and (seq < tonumber(ARGV[3]) or ticket < tonumber(ARGV[4])))
)
local function begin()
    epoch, seq, ticket = string.format('%.0f-%s', highest + 1, ARGV[1]), 0, 0
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'seq', seq)
end
if not epoch or goes_back or book[2] ~= run then
    begin()
end
