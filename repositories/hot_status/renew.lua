-- Begin a new epoch, or declare one workspace outdated within the present one.
--
-- KEYS[1]  the bookkeeping hash
-- ARGV[1..4]  see epoch.lua
-- ARGV[5]  a workspace; without it, and with too many of them on the books, everything is outdated
-- ARGV[6]  how many fields the books may hold
-- Returns  {epoch, seq, ticket, moved}
--#include epoch
if ARGV[5] and redis.call('HLEN', KEYS[1]) < tonumber(ARGV[6]) then
    seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
    redis.call('HSET', KEYS[1], 'w:' .. ARGV[5], seq)
else
    begin()
end
return {epoch, tostring(seq), tostring(ticket), broken}
